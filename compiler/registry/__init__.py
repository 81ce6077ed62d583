"""Artifacts in a store: pushed, found by name, moved from version to version, pulled.

address.py    what users type                   push.py       an artifact's folder into a store
layout.py     where things are in a store       pull.py       ... and out of it
record.py     a tag and its log                 ranks.py      what one rank needs of it
refs.py       promote, rollback, history        lease.py      what a running push needs, for gc to see
resolve.py    from a ref to what never changes  gc.py         remove what nothing refers to
signed.py     ... and is vouched for
listing.py    what is there                     difference.py how two artifacts differ
"""
