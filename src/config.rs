//! Configuration of server and client: defaults < file < conf.d < environment < flags, validated once.
