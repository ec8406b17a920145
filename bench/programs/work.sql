-- SPDX-License-Identifier: MIT
-- Work for sqlite3 in memory. The runner puts a number in place of each :rows.
PRAGMA journal_mode = MEMORY;
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, kind INTEGER, price REAL, note TEXT);
CREATE TABLE sale (id INTEGER PRIMARY KEY, item INTEGER, amount INTEGER, day INTEGER);
BEGIN;
INSERT INTO item
WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < :rows)
SELECT n, 'item ' || (n * 7919 % 100003), n % 97, n % 1000 / 7.0, substr(hex(n * n * 31), 1, 4 + n % 60)
FROM number;
INSERT INTO sale
WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 2 * :rows)
SELECT n, n * 104729 % :rows + 1, n % 13, n % 365 FROM number;
COMMIT;
CREATE INDEX item_name ON item (name);
CREATE INDEX sale_item ON sale (item, day);
SELECT kind, count(*), round(sum(price * amount), 2) FROM item JOIN sale ON sale.item = item.id
GROUP BY kind ORDER BY 3 DESC LIMIT 5;
SELECT length(group_concat(name || ':' || note)) FROM item;
SELECT count(*) FROM (SELECT day, group_concat(upper(note), '-') AS notes FROM sale JOIN item
ON item.id = sale.item GROUP BY day HAVING length(notes) > 10);
UPDATE item SET note = note || replace(note, '3', 'three') WHERE id % 3 = 0;
DELETE FROM sale WHERE day % 5 = 0;
SELECT name, length(note) FROM item ORDER BY note DESC, id LIMIT 7;
SELECT count(DISTINCT name), sum(length(note)) FROM item WHERE name LIKE '%7%';
DROP TABLE sale;
SELECT count(*), max(price) FROM item;
