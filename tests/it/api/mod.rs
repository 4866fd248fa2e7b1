//! REST routes over real HTTP and a real PostgreSQL.
