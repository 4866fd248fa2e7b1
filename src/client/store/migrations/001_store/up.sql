-- Opaque records: what they mean is the engine's. Values are sealed one by one (crypto.md 17).
CREATE TABLE records (
    kind  TEXT NOT NULL,
    key   BLOB NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (kind, key)
) WITHOUT ROWID;

-- Lines of timelines. `root` is author ‖ id of the thread's root; `body` is sealed and holds text and value.
CREATE TABLE messages (
    row     INTEGER PRIMARY KEY NOT NULL,
    channel BLOB NOT NULL,
    author  BLOB NOT NULL,
    id      BLOB NOT NULL,
    seq     BIGINT NOT NULL,
    sub     BIGINT NOT NULL,
    root    BLOB,
    body    BLOB NOT NULL,
    UNIQUE (channel, author, id)
);
CREATE INDEX messages_all ON messages (channel, seq, sub, author, id);
CREATE INDEX messages_main ON messages (channel, seq, sub, author, id) WHERE root IS NULL;
CREATE INDEX messages_thread ON messages (channel, root, seq, sub, author, id) WHERE root IS NOT NULL;
CREATE INDEX messages_newest ON messages (id, author);

-- The words of messages, in lower case, so that upper and lower case are what Rust says they are. The index may hold words
-- because the whole file is encrypted.
CREATE VIRTUAL TABLE words USING fts5(text, tokenize = 'trigram case_sensitive 1');
-- Without it the words of a deleted message stay in the index until its segments are merged.
INSERT INTO words (words, rank) VALUES ('secure-delete', 1);
