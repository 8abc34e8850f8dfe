//! Record names: MurmurHash3 of a block.
