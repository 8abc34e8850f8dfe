//! The recovery journal.
