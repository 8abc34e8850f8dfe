//! The slab depot: allocation and reference counts.
