"""Measures this server against Orthanc and nginx, on the same data, in one run."""
