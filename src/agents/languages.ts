/** Which language a file is in, by its name. Short on purpose: what is not here is told as such. */
import path from "node:path";

const BY_EXTENSION: Readonly<Record<string, string>> = {
  ".c": "C",
  ".cc": "C++",
  ".cjs": "JavaScript",
  ".cpp": "C++",
  ".cs": "C#",
  ".css": "CSS",
  ".cts": "TypeScript",
  ".go": "Go",
  ".h": "C",
  ".hpp": "C++",
  ".htm": "HTML",
  ".html": "HTML",
  ".java": "Java",
  ".js": "JavaScript",
  ".json": "JSON",
  ".jsx": "JavaScript",
  ".kt": "Kotlin",
  ".lua": "Lua",
  ".md": "Markdown",
  ".mjs": "JavaScript",
  ".mts": "TypeScript",
  ".php": "PHP",
  ".pl": "Perl",
  ".ps1": "PowerShell",
  ".py": "Python",
  ".rb": "Ruby",
  ".rs": "Rust",
  ".scala": "Scala",
  ".scss": "SCSS",
  ".sh": "Shell",
  ".sql": "SQL",
  ".swift": "Swift",
  ".toml": "TOML",
  ".ts": "TypeScript",
  ".tsx": "TypeScript",
  ".txt": "Text",
  ".vue": "Vue",
  ".xml": "XML",
  ".yaml": "YAML",
  ".yml": "YAML",
  ".zig": "Zig",
};

const BY_NAME: Readonly<Record<string, string>> = { Dockerfile: "Dockerfile", Makefile: "Makefile", LICENSE: "Text" };

/** `"other"` for a name that says nothing. */
export function languageOf(fileName: string): string {
  const base = path.basename(fileName);
  return BY_NAME[base] ?? BY_EXTENSION[path.extname(base).toLowerCase()] ?? "other";
}
