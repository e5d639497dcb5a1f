/**
 * Which addresses are the public Internet's. Everything else (this machine, its network, a cloud's metadata
 * service) is reached only by a job whose lease names the host in so many words (ACT-19): a name that somebody
 * else's DNS answers for proves nothing. Fails closed: a range that is not known to be public is not.
 */
import ipaddr from "ipaddr.js";

/** Public by its number, and a cloud's own service for the machines in it (Azure). */
const NOT_PUBLIC: ReadonlySet<string> = new Set(["168.63.129.16"]);
/** What is assigned of version 6 for the Internet. */
const GLOBAL_UNICAST = ipaddr.IPv6.parseCIDR("2000::/3");
/** Version 4 behind a translator (RFC 6052): the last four bytes are the address. */
const TRANSLATED = ipaddr.IPv6.parseCIDR("64:ff9b::/96");

/** @param text an address of either version, without brackets; anything else is not public */
export function isPublicAddress(text: string): boolean {
  if (!ipaddr.isValid(text)) return false;
  const address = ipaddr.process(text);
  if (address instanceof ipaddr.IPv4) return isPublicV4(address);
  if (address.match(TRANSLATED)) return isPublicV4(new ipaddr.IPv4(address.toByteArray().slice(-4)));
  return address.range() === "unicast" && address.match(GLOBAL_UNICAST);
}

export const isAddress = (text: string): boolean => ipaddr.isValid(text);

const isPublicV4 = (address: ipaddr.IPv4): boolean =>
  address.range() === "unicast" && !NOT_PUBLIC.has(address.toString());
