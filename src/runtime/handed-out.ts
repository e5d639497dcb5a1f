/**
 * For a promise that an agent is given. A stop rejects all that the agent waits for at once, and it leaves its handler
 * at the first: nobody handles the others, and Node would end the process. Whoever awaits it is told all the same.
 */
export function handedOut<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}
