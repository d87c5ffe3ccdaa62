"""A strict DICOMweb suite that runs against any server: ``readingroom conformance dicomweb --base URL``.

A check is a function of the server under test and of the data sets that were stored there; it stands in a module of
`areas`, with its section of PS3.18 and its level. `run` runs them all as pytest items, and `report` tells what came
of it. The suite speaks plain HTTP and reads every answer with parsers of its own, so that no library's leniency
hides a fault. Sections are those of PS3.18 2026a.
"""
