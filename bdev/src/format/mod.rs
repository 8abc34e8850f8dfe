//! The dm-vdo on-disk format: the only place that knows a byte offset.
