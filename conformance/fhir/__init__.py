"""What this server knows of FHIR, and that it keeps to it."""
