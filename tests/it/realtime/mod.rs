//! WebSocket delivery.
