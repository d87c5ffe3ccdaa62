"""A signed report for those who read it elsewhere: text, HTML, PDF, DICOM SR and DICOM Encapsulated PDF.

All of them are made from one `Report` and say the same. A version that is made twice has the same bytes twice.
"""
