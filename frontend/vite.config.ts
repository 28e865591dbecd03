import { defineConfig } from "vite";

// Fixed names, no inlined assets (the content security policy knows no data: URLs), no build date: the same sources
// give the same bytes, so that a fresh build can be compared with the committed one.
export default defineConfig({
  base: "/",
  build: {
    outDir: "../src/dcmark/web/static",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: false,
    sourcemap: false,
    target: "es2022",
    rollupOptions: {
      output: {
        entryFileNames: "assets/page.js",
        chunkFileNames: "assets/[name].js",
        assetFileNames: "assets/[name][extname]",
      },
    },
  },
});
