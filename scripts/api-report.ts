/**
 * What each entry of the package offers, as text: every export with its declaration, sorted by name, and
 * after them the types those declarations lean on without exporting them. Comments and private members
 * are left out, so that the text changes exactly when something changes for a user. Written on the
 * compiler itself, since API Extractor brings an older one that need not understand our declarations.
 */
import path from "node:path";
import ts from "typescript";
import type { StagedPackage } from "./staged-package.ts";

/** @returns for each report's file name its content */
export function apiReports(staged: Pick<StagedPackage, "directory" | "entries">): Map<string, string> {
  const program = ts.createProgram(
    staged.entries.map((entry) => entry.types),
    {
      target: ts.ScriptTarget.ES2024,
      lib: ["lib.es2024.d.ts", "lib.esnext.disposable.d.ts", "lib.dom.d.ts"],
      module: ts.ModuleKind.NodeNext,
      moduleResolution: ts.ModuleResolutionKind.NodeNext,
      types: ["node"],
      strict: true,
      noEmit: true,
    },
  );
  const checker = program.getTypeChecker();
  const resolved = (symbol: ts.Symbol): ts.Symbol =>
    symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
  /** What each entry exports, and under which name. */
  const faces = staged.entries.map(({ specifier, types }) => {
    const source = program.getSourceFile(types);
    const module = source && checker.getSymbolAtLocation(source);
    if (module === undefined) throw new Error(`${specifier}: ${types} is no module.`);
    const exported = new Map(checker.getExportsOfModule(module).map((symbol) => [resolved(symbol), symbol.name]));
    return { specifier, exported };
  });
  return new Map(
    faces.map(({ specifier, exported }) => {
      const elsewhere = new Set(faces.flatMap((face) => [...face.exported.keys()]));
      const report = new EntryReport({ checker, resolved, directory: staged.directory, exported, elsewhere });
      return [`${specifier.replaceAll("/", "-")}.api.md`, report.text(specifier)];
    }),
  );
}

interface EntryParts {
  checker: ts.TypeChecker;
  /** What an imported or re-exported name stands for. */
  resolved(symbol: ts.Symbol): ts.Symbol;
  /** The package's. */
  directory: string;
  exported: ReadonlyMap<ts.Symbol, string>;
  /** What has its place in the report of some entry. */
  elsewhere: ReadonlySet<ts.Symbol>;
}

class EntryReport {
  readonly #parts: EntryParts;
  readonly #printer = ts.createPrinter({ removeComments: true });
  readonly #leanedOn = new Map<ts.Symbol, string>();

  constructor(parts: EntryParts) {
    this.#parts = parts;
  }

  text(specifier: string): string {
    const exported = this.#print(this.#parts.exported);
    // Printing one of these may find more of them; a map's iteration takes in what is added meanwhile.
    const leanedOn = this.#print(this.#leanedOn);
    const sections = [
      `# ${specifier}`,
      "Written by `npm run api`; `npm run check:api` fails when it is not what the sources say.",
      fenced(exported),
      ...(leanedOn.length === 0 ? [] : ["## Not exported, but part of the above", fenced(leanedOn)]),
    ];
    return `${sections.join("\n\n")}\n`;
  }

  #print(symbols: ReadonlyMap<ts.Symbol, string>): string[] {
    const declarations: { name: string; text: string }[] = [];
    for (const [symbol, name] of symbols) declarations.push({ name, text: this.#declarationsOf(symbol) });
    return declarations.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0)).map(({ text }) => text);
  }

  #declarationsOf(symbol: ts.Symbol): string {
    const texts = (symbol.declarations ?? []).map((declaration) => {
      this.#collect(declaration);
      // The name of a `const` is declared within its statement.
      const node = ts.isVariableDeclaration(declaration) ? declaration.parent.parent : declaration;
      return this.#printer
        .printNode(ts.EmitHint.Unspecified, withoutPrivates(node), node.getSourceFile())
        .replace(/^(export )?(declare )?/, "export ");
    });
    return texts.join("\n");
  }

  /** Notes the package's own types that a declaration names. */
  #collect(node: ts.Node): void {
    if (isPrivate(node)) return;
    if (ts.isIdentifier(node)) {
      const named = this.#parts.checker.getSymbolAtLocation(node);
      const symbol = named && this.#parts.resolved(named);
      if (symbol !== undefined && !this.#parts.elsewhere.has(symbol) && this.#isTopLevelOfOurs(symbol)) {
        this.#leanedOn.set(symbol, symbol.name);
      }
    }
    node.forEachChild((child) => this.#collect(child));
  }

  #isTopLevelOfOurs(symbol: ts.Symbol): boolean {
    return (symbol.declarations ?? []).some((declaration) => {
      const statement = ts.isVariableDeclaration(declaration) ? declaration.parent.parent : declaration;
      const { fileName } = declaration.getSourceFile();
      return ts.isSourceFile(statement.parent ?? statement) && !isOutside(this.#parts.directory, fileName);
    });
  }
}

const isOutside = (directory: string, file: string): boolean =>
  path.relative(directory, file).split(path.sep)[0] === "..";

/** `#private;` and what is declared `private`: there, but nobody can use it. */
const isPrivate = (node: ts.Node): boolean =>
  (ts.isPropertyDeclaration(node) && ts.isPrivateIdentifier(node.name)) ||
  (ts.isClassElement(node) && (ts.getCombinedModifierFlags(node) & ts.ModifierFlags.Private) !== 0);

function withoutPrivates(node: ts.Node): ts.Node {
  if (!ts.isClassDeclaration(node)) return node;
  const { factory } = ts;
  return factory.updateClassDeclaration(
    node,
    node.modifiers,
    node.name,
    node.typeParameters,
    node.heritageClauses,
    node.members.filter((member) => !isPrivate(member)),
  );
}

const fenced = (blocks: readonly string[]): string => `\`\`\`ts\n${blocks.join("\n\n")}\n\`\`\``;
