DROP VIEW channel_readers;
DROP TABLE channel_states, channel_heads, channels;
