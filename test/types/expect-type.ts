/** `expectType<T>()(value)`: the value's type is exactly T, neither wider nor narrower, nor `any`. */
type Same<A, B> = (<X>() => X extends A ? 1 : 2) extends <X>() => X extends B ? 1 : 2 ? true : false;

export const expectType =
  <Expected>() =>
  <Actual>(_value: Actual & (Same<Actual, Expected> extends true ? unknown : "is another type")): void =>
    undefined;
