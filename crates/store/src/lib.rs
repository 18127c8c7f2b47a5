//! The store on disk: blobs, unpacked layers, references, step records, volumes, locks, gc.
