"""What is no WebSocket on the client port: `/msg`, `/tk` and the demo page (wire.md 1.2, HTTP)."""
