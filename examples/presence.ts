/** Which sessions run on this machine: this one joins the list, and reads it. `node examples/presence.ts` */
import { ActiveSessions, Lifecycle } from "holdfast/presence";

const sessions = new ActiveSessions({ enabled: true });
const lifecycle = new Lifecycle(sessions);
lifecycle.start({ sessionName: "nightly import", role: "headless", connected: true, metadata: () => ({ rows: 12 }) });
const own = (await sessions.snapshot()).sessions.find(({ pid }) => pid === process.pid);
console.log(own?.session_name, own?.role, own?.connected, own?.["rows"]);
await lifecycle.stop();
console.log((await sessions.querySnapshot()).sessions.some(({ pid }) => pid === process.pid));
