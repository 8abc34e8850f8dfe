//! The deduplication index behind its seam.
