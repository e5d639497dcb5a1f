/** Builds the console into `dist/console`, as the server serves it: under `/console/`, no script or style in the page. */
import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

export default defineConfig({
  base: "/console/",
  plugins: [react()],
  build: {
    outDir: "../dist/console",
    emptyOutDir: true,
    target: "es2024",
    // The policy of the page allows no data: but for images, and small files compress well as they are.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
});
