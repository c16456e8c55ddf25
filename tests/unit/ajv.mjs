// Reads {"schema", "events"} on standard input, prints which of the events Ajv accepts.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const require = createRequire(`${process.argv[2]}/`);
const Ajv = require("ajv/dist/2020").default;
const given = JSON.parse(readFileSync(0, "utf8"));
const accepts = new Ajv({ strict: true, allowUnionTypes: true }).compile(given.schema);
console.log(JSON.stringify(given.events.map((event) => accepts(event))));
