// SPDX-License-Identifier: MIT
// Work for node: its own heap and, through Buffers and zlib, the C library's. Prints a checksum.
'use strict';
const zlib = require('zlib');

function buffers(seed) {
    const kept = [];
    let sum = 0;
    for (let i = 0; i < 20000; i++) {
        const buffer = Buffer.alloc(64 + (i * 7919 + seed) % 16000, i & 255);
        kept[i % 500] = buffer;
        sum = (sum + buffer[i % buffer.length] + buffer.length) >>> 0;
    }
    return sum;
}

function documents(seed) {
    const rows = [];
    for (let i = 0; i < 8000; i++)
        rows.push({ id: i, name: 'name ' + i * seed, tags: Array(i % 6).fill('t'.repeat(i % 11)) });
    const text = JSON.stringify(rows);
    return text.length + JSON.parse(text).length;
}

function compressed(seed) {
    let sum = 0;
    for (let i = 0; i < 60; i++) {
        const text = Buffer.from(('line ' + (i * seed) + '\n').repeat(2000));
        sum += zlib.gunzipSync(zlib.gzipSync(text, { level: 1 })).length;
    }
    return sum;
}

function index(seed) {
    const places = new Map();
    for (let i = 0; i < 60000; i++) {
        const word = 'w' + (i * 31 + seed) % 5003;
        if (!places.has(word))
            places.set(word, []);
        places.get(word).push(i);
    }
    return [...places.keys()].sort().join(' ').length;
}

let total = 0;
for (let seed = 1; seed <= Number(process.argv[2]); seed++)
    for (const work of [buffers, documents, compressed, index])
        total = (Math.imul(total, 31) + work(seed)) >>> 0;
console.log(total);
