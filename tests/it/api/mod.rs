//! The REST interface, feature by feature, against a real server and a real PostgreSQL.

mod communities;
mod devices;
mod health;
mod logs;
