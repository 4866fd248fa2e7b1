//! The durable inbox of each device.
