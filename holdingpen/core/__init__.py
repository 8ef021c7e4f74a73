"""The core: pure judgments over books, events in, facts and effects out."""
