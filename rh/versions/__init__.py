"""Versions: immutable trees, content-addressed, in a store beside the data.

What a version is:

* `nodes`: directories of a version: what each contains, and where the bytes are.
* `series`: versions of one resource in the registry: numbers, aliases and their history.
* `told`: what a version is given when it is made: message, aliases, tags, properties, time to live.
* `properties`: tags and typed properties of versions and files.
* `sidecars`: files of a version that hold the tags and metadata of others.
* `diff`: what differs between two versions, from their nodes alone.

The store:

* `store`: the store of versions on a system, shared by all data there.
* `layout`: where a store is, and the keys in it.
* `packs`: writing: small files into packs, large ones whole, nodes into packs of their own.
* `pieces`: large files in content-defined chunks.
* `moved`: redirects to packs that garbage collection has rewritten.
* `index`: which contents a store has, as far as this machine knows; a hint that saves uploads.
* `lease`: leases by which writers and sweepers know of each other.
* `alive`: which process writes a document, and whether it still runs.

Making a version:

* `commit`: from data at a place to a version: a tree, a single file, or a tree by reference.
* `source`: what is to be committed, listed page by page.
* `levels`: trees from rows in key order, the deepest directories first.
* `edit`: from edits of a version to the next one.
* `overlay`: the directories that an edit changes, over those that it does not.
* `changes`: changes as plain JSON, for another process.
* `drafts`: named drafts that several processes build.
* `incoming`: contents of an edit on their way into a store.
* `moving`: whole files on their way into a store, by the transfer engine.
* `spooled`: files on their way into a store, spooled on a local disk.

Reading a version:

* `system`: a version as a system to read.
* `reading`: the bytes of one file, from the cache or the store, verified.
* `bulk`: many small files at once, neighbours in a pack with one request.
* `joining`: whole files from their chunks, sharing blocks of the disk where possible.
* `cache`: what this machine keeps of versions: contents, packs of nodes, markers of trees.
* `copies`: copies made by `.local()`.
* `export`: a version as one file, out of a store and into another.

Keeping a store small and whole:

* `gc`: mark and sweep, while others commit.
* `marks`: what versions need, noted on disk.
* `sweep`: one sweeper at a time, and only while nobody writes.
* `repack`: rewriting packs that are mostly unused.
* `verify`: reading a version again where it is stored.
* `repair`: writing lost or damaged data again.
* `lost`: what a store no longer has: parts that it lost, and versions that nobody keeps.
"""
