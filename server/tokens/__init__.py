"""Words of others that are signed: what their service says, and which of its tokens is believed."""
