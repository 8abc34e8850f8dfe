//! The block map: logical to physical, a tree of pages grown on demand.
