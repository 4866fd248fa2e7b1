DROP TABLE channel_states, channel_heads, channels;
