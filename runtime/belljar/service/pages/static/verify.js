"use strict";
(() => {
  // A run's receipt, checked here and not where it came from, as RFC 9162 (2.1.3.2) and C2SP's signed notes say:
  //   leaf = SHA-256(0x00 || record), from the leaf by the proof to the root, and the root is in the signed note.
  const start = () => {
    const section = document.getElementById("proof");
    if (!section || section.dataset.started) return;
    section.dataset.started = "1";
    section.hidden = false;
    section.querySelector("button").addEventListener("click", () => check(section));
  };
  const bytes = (base64) => Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
  const unhex = (text) => Uint8Array.from(text.match(/../g) || [], (two) => parseInt(two, 16));
  const hex = (data) => [...data].map((one) => one.toString(16).padStart(2, "0")).join("");
  const join = (...parts) => {
    const joined = new Uint8Array(parts.reduce((sum, one) => sum + one.length, 0));
    let at = 0;
    for (const one of parts) {
      joined.set(one, at);
      at += one.length;
    }
    return joined;
  };
  const sha256 = async (...parts) => new Uint8Array(await crypto.subtle.digest("SHA-256", join(...parts)));
  const node = (left, right) => sha256(Uint8Array.of(1), left, right);
  // Sizes are whole numbers below 2^53, which `%` and division keep exact where bit operators would not.
  const half = (number) => Math.floor(number / 2);
  const rootOf = async (leaf, index, size, proof) => {
    if (!(index >= 0 && index < size)) throw new Error("the record is not within the tree");
    let at = index;
    let last = size - 1;
    let found = leaf;
    for (const one of proof) {
      if (last === 0) throw new Error("the proof is too long");
      if (at % 2 === 1 || at === last) {
        found = await node(one, found);
        while (at % 2 === 0 && at !== 0) [at, last] = [half(at), half(last)];
      } else found = await node(found, one);
      [at, last] = [half(at), half(last)];
    }
    if (last !== 0) throw new Error("the proof is too short");
    return found;
  };
  const noteOf = (text) => {
    const found = /^(([^\s+]+)\n(0|[1-9][0-9]{0,15})\n([A-Za-z0-9+/]{43}=)\n)\n((?:— [^\s+]+ [A-Za-z0-9+/=]+\n)+)$/.exec(text);
    if (!found) throw new Error("the checkpoint is not a signed note");
    const signatures = found[5].trimEnd().split("\n").map((line) => line.split(" ").slice(1));
    return {text: found[1], origin: found[2], size: Number(found[3]), root: bytes(found[4]), signatures};
  };
  const keyOf = async (line) => {
    const at = [line.indexOf("+"), line.indexOf("+", line.indexOf("+") + 1)];
    const [name, id, data] = [line.slice(0, at[0]), line.slice(at[0] + 1, at[1]), bytes(line.slice(at[1] + 1))];
    const digest = await sha256(new TextEncoder().encode(`${name}\n`), data);
    if (data[0] !== 1 || data.length !== 33 || hex(digest.slice(0, 4)) !== id) throw new Error("the key is not one of Ed25519");
    return {name, id, key: await crypto.subtle.importKey("raw", data.slice(1), {name: "Ed25519"}, false, ["verify"])};
  };
  const check = async (section) => {
    const list = section.querySelector("ol");
    const say = (tone, text) => {
      const item = document.createElement("li");
      item.className = tone;
      item.textContent = text;
      list.append(item);
    };
    list.replaceChildren();
    section.dataset.verdict = "";
    if (!globalThis.isSecureContext || !globalThis.crypto.subtle) {
      say("bad", "This browser checks nothing here: pages that do not come from this machine need HTTPS for that.");
      section.dataset.verdict = "unable";
      return;
    }
    try {
      const answer = await fetch(section.dataset.proof, {credentials: "same-origin"});
      if (!answer.ok) throw new Error(`there is no receipt (${answer.status})`);
      const given = await answer.json();
      const record = bytes(given.record);
      const said = JSON.parse(new TextDecoder().decode(record));
      if (said.run !== given.run || said.seq !== given.seq) throw new Error("the record is another run's, or has another number");
      const leaf = await sha256(Uint8Array.of(0), record);
      if (hex(leaf) !== given.leaf) throw new Error("the record does not have the hash that the receipt names");
      say("good", `Record ${given.seq} says ${said.event} of this run; its leaf hash is ${given.leaf.slice(0, 16)}…`);
      const note = noteOf(given.checkpoint);
      const root = await rootOf(leaf, given.seq - 1, note.size, given.proof.map(unhex));
      if (hex(root) !== hex(note.root)) throw new Error("the proof leads to another root than the signed one");
      say("good", `By ${given.proof.length} hashes it is in the tree of ${note.size} records with the root ${hex(root).slice(0, 16)}…`);
      const key = await keyOf(given.key);
      const mine = note.signatures.find(([name, data]) => name === key.name && hex(bytes(data).slice(0, 4)) === key.id);
      const signature = mine && bytes(mine[1]).slice(4);
      const text = new TextEncoder().encode(note.text);
      if (!signature || !(await crypto.subtle.verify({name: "Ed25519"}, key.key, signature, text))) {
        throw new Error("the checkpoint is not signed by the service's key");
      }
      say("good", `The checkpoint of ${note.origin} is signed by ${key.name}`);
      const known = localStorage.getItem(`belljar key of ${note.origin}`);
      if (known && known !== given.key) say("bad", `This browser knew another key of this log: ${known}. Was it rotated?`);
      else {
        localStorage.setItem(`belljar key of ${note.origin}`, given.key);
        say("none", known ? "It is the key that this browser knows of this log." : "This browser remembers the key. Compare it with `belljar audit checkpoint` on the host:");
        if (!known) say("none", given.key);
      }
      section.dataset.verdict = known && known !== given.key ? "other key" : "good";
    } catch (error) {
      say("bad", `It does not verify: ${error.message}`);
      section.dataset.verdict = "bad";
    }
  };
  start();
  addEventListener("renewed", start);
})();
