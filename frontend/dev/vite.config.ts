import { defineConfig } from "vite";
import { mock } from "./mock";

/**
 * The page over a made-up archive, for work on the page without the Python server: `npm run dev` from its sources,
 * `npm run preview` as built and under the server's content security policy.
 */
export default defineConfig({
  root: ".",
  plugins: [mock()],
  server: { host: "127.0.0.1", port: 5199, strictPort: true },
  preview: { host: "127.0.0.1", port: 5198, strictPort: true, headers: { "Content-Security-Policy": "default-src 'self'" } },
  build: { outDir: "../src/dcmark/web/static" },
});
