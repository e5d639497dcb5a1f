/** A text that would act if a page took it for more than text; short enough for every field. */
export const HOSTILE = `"><img src=x onerror="hurt=1"><script>hurt=2</script><svg onload=hurt=3>{{7*7}}\u202etxt`;
/** How it begins, wherever it is shown. */
export const HOSTILE_START = `"><img src=x onerror=`;
