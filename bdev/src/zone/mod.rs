//! Zone threads: who owns what, and how they talk.
