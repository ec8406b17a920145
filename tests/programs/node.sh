#!/bin/sh
# node: JSON, sorting, Buffers, regular expressions, zlib and hashes on the main thread and on four
# worker threads at once give the same results everywhere, with and without the library.
. "$(dirname "$0")/common.sh"
need node
bound_to_library node -e 0

cat >work.js <<'JS'
const { Worker, isMainThread, parentPort } = require('worker_threads');
const crypto = require('crypto');
const zlib = require('zlib');

let state;
function random() // the same numbers everywhere
{
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state;
}

function sorted(hash)
{
    const rows = [];
    for (let i = 0; i < 60000; i++)
        rows.push({ id: random() % 100000, name: 'row ' + random(), tags: [i, String(i)] });
    rows.sort((a, b) => a.id - b.id || (a.name < b.name ? -1 : 1));
    const text = JSON.stringify(rows);
    const back = JSON.parse(text);
    if (JSON.stringify(back) !== text)
        throw new Error('JSON does not round-trip');
    hash.update(text);
}

function buffers(hash)
{
    const kept = [];
    for (let i = 0; i < 20000; i++) {
        const buffer = Buffer.alloc(1 + random() % (i % 50 ? 3000 : 200000), i & 255);
        buffer.writeUInt8(random() & 255, random() % buffer.length);
        kept[random() % 400] = buffer;
    }
    const all = Buffer.concat(kept.filter(Boolean));
    const packed = zlib.gzipSync(all, { level: 1 });
    if (!zlib.gunzipSync(packed).equals(all))
        throw new Error('gzip does not round-trip');
    hash.update(all);
}

function words(hash)
{
    const counts = new Map();
    let text = '';
    for (let i = 0; i < 100000; i++)
        text += 'w' + random() % 5000 + (i % 11 ? ' ' : '\n');
    for (const [, word] of text.matchAll(/\b(w\d+)\b/g))
        counts.set(word, (counts.get(word) || 0) + 1);
    hash.update(JSON.stringify([...counts].sort()));
}

function result()
{
    state = 12345;
    const hash = crypto.createHash('sha256');
    sorted(hash);
    buffers(hash);
    words(hash);
    return hash.digest('hex');
}

function onWorker()
{
    return new Promise((resolve, reject) => {
        const worker = new Worker(__filename);
        let answer;
        worker.once('message', (message) => { answer = message; });
        worker.once('error', reject);
        worker.once('exit', () => resolve(answer));
    });
}

async function main()
{
    const answers = [result()];
    for (let round = 0; round < 2; round++)
        answers.push(...await Promise.all([1, 2, 3, 4].map(onWorker)));
    console.log([...new Set(answers)].join(' '));
}

if (isMainThread)
    main();
else
    parentPort.postMessage(result());
JS

expected=$(node work.js)
same "result of all threads" "$expected" "$(preloaded node work.js)"
echo "node: main thread and 8 workers agree with a run without the library on $expected" | cut -c 1-90
