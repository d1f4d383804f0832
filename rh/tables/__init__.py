"""Tables: rows in files on any system, written all or nothing, streamed in batches, handed to every data-frame library.

Arrow is in the middle. `base` has the words and contracts, `store` which files are a table's own, `access` how Arrow
reads them where they are, `writing` how rows become files, `stream` how they come out in batches; each data-frame
library is one adapter file, and the adapters know nothing of each other.
"""
