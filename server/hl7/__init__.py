"""HL7 version 2: its framing, its messages, and reports as messages."""
