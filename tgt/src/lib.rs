//! The embedded host: the engine on pinned threads, io_uring below and NBD above.
