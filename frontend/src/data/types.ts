/** What the server says and is told (docs/reference/http.md). */

import type { Affine, Vec3 } from "../core/geometry";
import type { Preset, Window } from "../core/lut";
import type { Runs } from "../core/rle";

export interface Ingest {
  done: number;
  total: number;
  phase: string;
}

export interface Archive {
  id: string;
  name: string;
  read_only: boolean;
  version: string;
  counts: Record<string, number>;
  ingest: Ingest | null;
  author: string;
}

export type State = "todo" | "draft" | "reviewed";

export interface Item {
  id: string;
  kind: "volume" | "series";
  patient: string;
  patient_id: string;
  study: string;
  study_date: string;
  series: string;
  description: string;
  modality: string;
  frames: number;
  rows: number;
  columns: number;
  spacing: Vec3 | null;
  annotated: number;
  state: State;
}

export interface Worklist {
  items: Item[];
  next: string | null;
  total?: number;
  /** How many there are of each state and modality, whatever else is chosen. */
  counts?: { state: Record<string, number>; modality: Record<string, number> };
}

export interface Slice {
  file: string;
  frame: number;
  position: Vec3 | null;
  orientation: number[] | null;
  slope: number;
  intercept: number;
  sop_instance_uid: string;
}

export interface Finding {
  level: string;
  code: string;
  message: string;
}

export interface StackInfo {
  id: string;
  modality: string;
  patient: string;
  description: string;
  unit: string;
  quantity: string;
  rows: number;
  columns: number;
  frames: number;
  signed: boolean;
  colour: boolean;
  slope: number;
  intercept: number;
  windows: Preset[];
  window: Window | null;
  affine: Affine | null;
  spacing: Vec3 | null;
  frame_of_reference: string | null;
  fps: number | null;
  photometric: string;
  inverted?: boolean;
  slices: Slice[];
  findings: Finding[];
}

export interface Code {
  value: string;
  scheme: string;
  meaning: string;
}

export interface Label {
  name: string;
  color: string;
  key: string;
  code: Code | null;
}

export interface LabelSet {
  name: string;
  labels: Label[];
}

export interface SliceRuns {
  k: number;
  runs: Runs;
}

export interface Mask {
  slices: SliceRuns[];
  partial?: boolean;
}

export interface Contour {
  slice: number | null;
  closed: boolean;
  points: number[][];
}

export type Kind =
  | "label" | "measurement" | "point" | "line" | "box" | "ellipse" | "polygon" | "freehand" | "mask" | "text";
export type Level = "patient" | "study" | "series" | "volume" | "instance" | "frame" | "region";
export type Status = "draft" | "reviewed" | "rejected";

export interface Annotation {
  id: string;
  kind: Kind;
  level: Level;
  slice: number | null;
  label: { name: string; color: string; code: Code | null };
  contours: Contour[];
  mask: Mask | null;
  value: number | null;
  unit: string;
  text: string;
  author: string;
  tool: string;
  time: string;
  status: Status;
  comment: string;
  derived_from: string[];
}

export interface Action {
  type: "add" | "change" | "remove" | "undo" | "redo" | "review";
  annotation?: Partial<Annotation>;
  id?: string;
  status?: Status;
  comment?: string;
}

export interface Reply {
  head: string | null;
  annotations: Annotation[];
  removed: string[];
}

export interface TagElement {
  tag: string;
  keyword: string;
  name: string;
  vr: string;
  value: string;
  depth: number;
}

export interface Review {
  authors: string[];
  slices: { k: number; levels: { count: number; runs: Runs }[] }[];
}
