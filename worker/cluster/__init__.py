"""Many machines: who takes part, and the schema that the engine and its workers keep to themselves."""
