"""How data arrives by itself: by DICOM network, from a DICOMweb server, into a folder that is watched.

spool.py     what came in, durable before it is acknowledged
intake.py    from the spool into the archive, in the background
listener.py  the C-STORE and C-ECHO provider that fills the spool
upper.py     what keeps that provider serving whatever it is sent
dicomweb.py  a DICOMweb server as a source
watch.py     a folder, file by file as they become quiet
"""
