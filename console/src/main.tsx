/** Where the console starts. */
import { createRoot } from "react-dom/client";
import { lookWhoWeAre } from "./api.ts";
import { App } from "./app.tsx";
import "./style.css";

const root = document.querySelector("#root");
if (root === null) throw new Error("The page has no #root.");
createRoot(root).render(<App />);
void lookWhoWeAre();
