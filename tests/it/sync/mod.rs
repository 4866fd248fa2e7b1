//! Several client engines against one server.
