"use strict";

/**
 * Whether this Node can run Holdfast, told in one line (CLI-7). Plain old syntax: it has to run on the
 * very versions that it refuses.
 */

const NEEDED = [22, 13];

/**
 * @param {string} version as in `process.versions.node`
 * @returns {string | undefined} what to tell the user, or undefined when the version will do
 */
function complaint(version) {
  const parts = version.split(".").map(Number);
  if (parts[0] > NEEDED[0] || (parts[0] === NEEDED[0] && parts[1] >= NEEDED[1])) return undefined;
  return (
    "holdfast needs Node " +
    NEEDED.join(".") +
    " or newer; this is Node " +
    version +
    ". In a clone of the repository, `npm start` and `npx holdfast …` bring a current one."
  );
}

module.exports = { complaint: complaint };
