//! Hash zones, hash locks and dedupe contexts.
