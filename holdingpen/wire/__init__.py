"""The tongue: messages, frames and who may speak when; no IO."""
