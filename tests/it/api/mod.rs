//! The REST interface, feature by feature, against a real server and a real PostgreSQL.

mod auth;
mod channels;
mod communities;
mod deadlines;
mod devices;
mod dms;
mod groups;
mod health;
mod invites;
mod keys;
mod logs;
mod members;
mod races;
mod users;
mod visibility;
