import { GEOMETRIES } from './geometries.ts'
import { layerScene } from './layer-scene.ts'
import type { Scene } from './scene.ts'

/** Names of everything that crashes are tried on; the first word is the format. */
export function sceneNames(): string[] {
  return GEOMETRIES.map(({ name }) => name)
}

/** The scenes whose names are wanted. */
export async function scenesOf(wanted: (name: string) => boolean): Promise<Scene[]> {
  const scenes: Scene[] = []
  for (const geometry of GEOMETRIES) if (wanted(geometry.name)) scenes.push(await layerScene(geometry))
  return scenes
}
