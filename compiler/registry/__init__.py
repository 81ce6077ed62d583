"""Registry: artifacts in a store, pushed and pulled, found by name, with tags that move between versions.

address.py    names on the command line         push.py       folder of an artifact -> store
layout.py     keys in a store                   pull.py       store -> folder of an artifact
record.py     a tag and its log                 ranks.py      files of an artifact that one rank needs
refs.py       promote, rollback, history        lease.py      objects that a running push protects from gc
resolve.py    tag or digest -> artifact         gc.py         removal of unreferenced objects
listing.py    artifacts and tags in a store     difference.py differences of two artifacts
summary.py    text of the commands on stores    progress.py   progress of transfers
"""
