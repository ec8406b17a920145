#!/bin/sh
# sqlite3: a database of 200000 rows with indexes, updated, thinned out, joined, sorted and vacuumed
# is sound, has the sums that arithmetic gives, and dumps to the same bytes as without the library.
. "$(dirname "$0")/common.sh"
need sqlite3
bound_to_library sqlite3 :memory: 'SELECT 1;'

rows=200000
cat >fill.sql <<SQL
PRAGMA threads = 2;
PRAGMA cache_size = -64000;
CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, kind INTEGER, amount INTEGER, payload BLOB);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $rows)
INSERT INTO item SELECT i, printf('item-%08x', i * 2654435761 % 4294967296), i % 997, i % 1000,
                        zeroblob(i % 200) FROM n;
COMMIT;
CREATE INDEX by_name ON item(name);
CREATE INDEX by_kind ON item(kind, amount DESC);
UPDATE item SET name = name || ' changed ' || id, payload = zeroblob(1500) WHERE id % 13 = 0;
DELETE FROM item WHERE id % 5 = 0;
CREATE TABLE kind(id INTEGER PRIMARY KEY, total INTEGER, names TEXT);
INSERT INTO kind SELECT kind, sum(amount), group_concat(name) FROM item GROUP BY kind;
UPDATE item SET amount = amount + (SELECT total FROM kind WHERE kind.id = item.kind) WHERE id % 7 = 0;
VACUUM;
ANALYZE;
SQL
cat >ask.sql <<'SQL'
SELECT name, row_number() OVER (PARTITION BY kind ORDER BY name DESC) FROM item ORDER BY name;
SELECT a.id, b.id FROM item a JOIN item b ON a.name < b.name AND a.kind = b.kind
    WHERE a.kind < 8 ORDER BY length(a.payload), a.id, b.id;
SELECT json_group_array(json_object('id', id, 'total', total)) FROM kind;
SELECT DISTINCT substr(name, 6, 5) FROM item ORDER BY 1 DESC;
.dump
SQL

preloaded sqlite3 preloaded.db <fill.sql >/dev/null
same "integrity_check" ok "$(preloaded sqlite3 preloaded.db 'PRAGMA integrity_check;')"
fifth=$((rows / 5))
same "rows and their sum" \
    "$((rows - fifth))|$((rows * (rows + 1) / 2 - 5 * (fifth * (fifth + 1) / 2)))" \
    "$(preloaded sqlite3 preloaded.db 'SELECT count(*), sum(id) FROM item;')"

sqlite3 plain.db <fill.sql >/dev/null
preloaded sqlite3 preloaded.db <ask.sql >preloaded.answers
sqlite3 plain.db <ask.sql >plain.answers
cmp preloaded.answers plain.answers || fail "other answers than without the library"
echo "sqlite: sound, right sums, $(wc -c <preloaded.answers) bytes of answers the same"
