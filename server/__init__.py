"""The coordinator: it relays bytes that it cannot read and keeps the phases of a run in step."""
